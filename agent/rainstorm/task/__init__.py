"""The process that runs one task of a job."""
