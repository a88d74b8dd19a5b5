"""`make soak`: gigabytes, slow links and dead endpoints, with what they cost printed."""
