"""One module per recipe. Its `run(task, recorder)` trains and records predictions of the validation split."""
