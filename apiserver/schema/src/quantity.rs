//! Quantities of resources: parsing, canonical form, comparison.
