"""All that imports Ray or a cloud: connection, Tune, placement, jobs, watching, providers."""
