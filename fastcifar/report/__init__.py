"""What a person sees of a run: the console, plots and a page, made from the values that a training hands out."""
