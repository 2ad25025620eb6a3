//! Nothing: the manifest of this crate is what it is for (see hack/gen/features.py).
