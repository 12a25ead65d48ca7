"""Tables, plots and judgements of runs and evaluations."""
