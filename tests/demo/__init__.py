"""`make demo`: a cellar of real model files goes to S3 and comes back, through git alone."""
