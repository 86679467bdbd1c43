"""Images and their volumes: records, files, making, deleting, preparing, and the undoing of half-done work."""
