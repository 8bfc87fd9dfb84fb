"""The Jupyter kernel that `tp4 reproduce` starts: IPython's own, in this environment, ended with its parent."""

ENDED = "TP4_KERNEL_ENDED"
"""Environment variable: a file that a kernel makes when it ends in order, as it does after ``quit()``."""

if __name__ == "__main__":
    import os
    from pathlib import Path

    from ipykernel.kernelapp import launch_new_instance

    from tp4lib.lifeline import end_with_parent

    end_with_parent()
    launch_new_instance()
    if mark := os.environ.get(ENDED):
        Path(mark).touch()
