"""What people read: tables, lists, progress, live views and errors."""
