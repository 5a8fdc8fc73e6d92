"""One recipe a module: `run(task, recorder)` trains it and records its predictions of the validation split."""
