"""One module a verb family: what each verb checks, which locks it takes and which floor below does the work."""
