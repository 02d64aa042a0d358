"""Many pictures from files to files: what ``agf-fx explain`` does with a folder."""
