"""Training SAEs by SAELens' runner, so that a run can be repeated, interrupted, and divided over the ranks of a job."""
