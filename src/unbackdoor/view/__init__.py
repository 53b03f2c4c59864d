"""A folder of runs in the browser: an index and the pages that runs left, on this machine alone."""
