"""Work that is divided among processes of a cluster: pieces, who has them, and Ray itself."""
