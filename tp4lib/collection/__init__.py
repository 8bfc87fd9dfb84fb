"""The notebooks as a collection: running them, reports, figures, sliders, student versions, the ``tp4`` command."""
