"""The Jupyter kernel that `tp4 reproduce` starts: IPython's own, in this environment, ended with its parent."""

QUIT = "TP4_KERNEL_QUIT"
"""Environment variable: the file into which the kernel writes, as JSON, the code that asked it to end."""

if __name__ == "__main__":
    import json
    import os
    from pathlib import Path

    from ipykernel.kernelapp import IPKernelApp

    from tp4lib.collection.lifeline import end_with_parent

    end_with_parent()
    app = IPKernelApp.instance()
    app.initialize()
    # quit() ends the kernel a moment after its cell, when the next one may have begun already.
    note = Path(os.environ[QUIT])
    app.shell.observe(
        lambda _: note.write_text(json.dumps(app.kernel.get_parent("shell")["content"]["code"])), "exit_now"
    )
    app.start()
