"""The `tp4` subcommands, one module each; `tp4lib.cli` puts them together."""
