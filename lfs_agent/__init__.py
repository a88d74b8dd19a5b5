"""A Git LFS custom transfer agent that keeps objects in S3, or in a shared folder."""

__version__ = "0.1.0"
