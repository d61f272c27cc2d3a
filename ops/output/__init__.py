"""The output for people: tables, lists, progress, live views and errors."""
