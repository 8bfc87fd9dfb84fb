"""The `tp4` subcommands, one module each; `tp4lib.collection.cli` puts them together."""
