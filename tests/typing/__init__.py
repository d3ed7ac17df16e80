"""What type checkers see: these files are checked, not run."""
