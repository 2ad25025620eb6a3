//! Field errors: one fault of an object, with the path and the text that upstream gives it.
