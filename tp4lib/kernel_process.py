"""The Jupyter kernel that `tp4 reproduce` starts: IPython's own, in this environment, ended with its parent."""

if __name__ == "__main__":
    from ipykernel.kernelapp import launch_new_instance

    from tp4lib.lifeline import end_with_parent

    end_with_parent()
    launch_new_instance()
