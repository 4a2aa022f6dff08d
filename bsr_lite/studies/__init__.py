"""Studies: methods over seeds, their tables and figures."""
