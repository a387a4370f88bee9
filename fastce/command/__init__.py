"""The command ``fastce``: a file for each longer subcommand. It uses public names of ``fastce`` alone."""
