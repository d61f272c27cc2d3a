"""Gates that ``make`` opens or shuts: the coverage of each room, and mutants that tests must kill."""
