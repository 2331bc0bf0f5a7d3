"""The one door through which files are read and written: see SECURITY.md for what is promised of each kind."""
