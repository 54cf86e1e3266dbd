//! A typed builder of XLA HLO modules.
