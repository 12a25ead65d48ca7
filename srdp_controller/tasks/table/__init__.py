"""The arm over a table: what tasks with it share."""
