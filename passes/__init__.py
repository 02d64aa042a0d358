"""Graph analyses and transformations, one a file. A pass imports the intermediate representation only."""
