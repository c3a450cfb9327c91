//! Champion, challenger and holdout to a report and the gate's verdict.
