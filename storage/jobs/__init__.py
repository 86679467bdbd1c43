"""Background tasks: states, workers, records on storage, rollback."""
