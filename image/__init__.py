"""Container images made from this repository, with Docker where there is one and without it everywhere else."""
