"""One file, one solver of edits: `build(**parameters)` gives an object with `solve(problem) -> Solution`."""
