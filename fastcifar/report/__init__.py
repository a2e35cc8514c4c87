"""Output for people: the console, figures, HTML pages and TensorBoard, made from the results of runs."""
