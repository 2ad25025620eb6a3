//! The cells of the table: what is run, and under which name. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The programs of a cluster that exist on both sides, in the order in which a cluster starts them.
pub const PROGRAMS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "cluster-dns",
];

/// Whose program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    Ours,
    Upstream,
}

impl Side {
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Ours => Self::Upstream,
            Self::Upstream => Self::Ours,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::Upstream => "upstream",
        })
    }
}

/// One experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// One program is `side`'s, all others are the other side's.
    Swap { program: &'static str, side: Side },
    /// One API server of each side over the same etcd.
    TwoServers,
    /// What the other side's server stored is read by the server of side `to`.
    HandOver { to: Side },
}

impl Cell {
    /// All cells, in the order of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let swaps = [Side::Ours, Side::Upstream]
            .into_iter()
            .flat_map(|side| PROGRAMS.map(|program| Self::Swap { program, side }));
        let others = [
            Self::TwoServers,
            Self::HandOver { to: Side::Ours },
            Self::HandOver { to: Side::Upstream },
        ];
        swaps.chain(others).collect()
    }

    /// Those whose name is, or begins with, one of the wanted; all for none wanted.
    ///
    /// # Errors
    /// A wanted name that fits no cell.
    pub fn choose(wanted: &[String]) -> Result<Vec<Self>, String> {
        let all = Self::all();
        if let Some(none) = wanted.iter().find(|w| !all.iter().any(|c| c.fits(w))) {
            return Err(none.clone());
        }
        Ok(all
            .into_iter()
            .filter(|c| wanted.is_empty() || wanted.iter().any(|w| c.fits(w)))
            .collect())
    }

    fn fits(self, wanted: &str) -> bool {
        let name = self.to_string();
        name == wanted || name.starts_with(&format!("{wanted}-"))
    }

    /// Whose `program` runs in this cell.
    #[must_use]
    pub fn side_of(self, program: &str) -> Side {
        match self {
            Self::Swap { program: one, side } if one == program => side,
            Self::Swap { side, .. } => side.other(),
            Self::TwoServers => Side::Ours,
            // A whole cluster of the side that hands over.
            Self::HandOver { to } => to.other(),
        }
    }
}

/// `only-ours-kubelet`, `only-upstream-kubelet`, `two-api-servers`, `hand-over-to-ours`.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Swap { program, side } => write!(f, "only-{side}-{program}"),
            Self::TwoServers => f.write_str("two-api-servers"),
            Self::HandOver { to } => write!(f, "hand-over-to-{to}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_twelve_and_one_and_two_cells_with_different_names() {
        let names: std::collections::BTreeSet<String> = Cell::all().iter().map(Cell::to_string).collect();
        assert_eq!(names.len(), 15);
    }

    #[test]
    fn in_a_swap_exactly_one_program_is_of_the_named_side() {
        for cell in Cell::all() {
            let Cell::Swap { program, side } = cell else { continue };
            let of_side: Vec<&str> = PROGRAMS.into_iter().filter(|p| cell.side_of(p) == side).collect();
            assert_eq!(of_side, [program]);
        }
    }

    #[test]
    fn cells_are_chosen_by_name_or_by_its_beginning() {
        let choose = |names: &[&str]| Cell::choose(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(choose(&[]).map(|c| c.len()), Ok(15));
        assert_eq!(choose(&["only-ours", "hand-over"]).map(|c| c.len()), Ok(8));
        assert_eq!(choose(&["two-api-servers"]), Ok(vec![Cell::TwoServers]));
        assert_eq!(choose(&["only-ours-kube"]).map(|c| c.len()), Ok(4));
        assert_eq!(choose(&["kube"]), Err("kube".to_owned()));
    }
}
