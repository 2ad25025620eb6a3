//! A persistent sorted map: clones are O(1) and share all nodes; a write copies only the path that somebody else still holds.
//!
//! It is a B+ tree over `Arc` nodes. Snapshots of the cache are clones of it. Items carry their own key; nodes know the
//! number of items below, so ranks (and `remainingItemCount`) cost O(log n).

use std::sync::Arc;

/// Most items of a leaf and children of an inner node.
const MAX: usize = 64;
/// Fewest, except on the right edge of a bulk build and in the root.
const MIN: usize = 16;

/// An item of a [`Tree`].
pub(crate) trait Keyed: Clone {
    /// Shared, because separators in inner nodes keep it while versions of the item come and go.
    fn key(&self) -> &Arc<str>;
}

#[derive(Clone)]
pub(crate) struct Tree<T> {
    root: Arc<Node<T>>,
}

#[derive(Clone)]
enum Node<T> {
    Leaf(Vec<T>),
    Inner(Vec<Child<T>>),
}

#[derive(Clone)]
struct Child<T> {
    /// Not greater than any key below, greater than all keys of the child before.
    low: Arc<str>,
    len: usize,
    node: Arc<Node<T>>,
}

impl<T: Keyed> Default for Tree<T> {
    fn default() -> Self {
        Tree {
            root: Arc::new(Node::Leaf(Vec::new())),
        }
    }
}

impl<T: Keyed> Tree<T> {
    /// Builds from items in strictly ascending order of keys.
    pub fn from_sorted(items: Vec<T>) -> Self {
        const FILL: usize = 48;
        debug_assert!(items.is_sorted_by(|a, b| a.key() < b.key()));
        let mut level = Vec::with_capacity(items.len() / FILL + 1);
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            level.extend(Child::of(Node::Leaf(items.by_ref().take(FILL).collect())));
        }
        while level.len() > 1 {
            let mut above = Vec::with_capacity(level.len() / FILL + 1);
            let mut children = level.into_iter().peekable();
            while children.peek().is_some() {
                above.extend(Child::of(Node::Inner(children.by_ref().take(FILL).collect())));
            }
            level = above;
        }
        level
            .pop()
            .map_or_else(Self::default, |child| Tree { root: child.node })
    }

    pub fn len(&self) -> usize {
        self.root.len()
    }

    pub fn get(&self, key: &str) -> Option<&T> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(items) => {
                    let at = items.binary_search_by(|i| (**i.key()).cmp(key)).ok()?;
                    return items.get(at);
                }
                Node::Inner(children) => node = &*children.get(position(children, key.as_bytes()))?.node,
            }
        }
    }

    /// Puts the item under its key; returns what was there.
    pub fn insert(&mut self, item: T) -> Option<T> {
        let (before, split) = insert(Arc::make_mut(&mut self.root), item);
        if let Some(right) = split {
            let left = std::mem::replace(&mut self.root, Arc::new(Node::Leaf(Vec::new())));
            let children = [Child::shared(left), Some(right)].into_iter().flatten().collect();
            self.root = Arc::new(Node::Inner(children));
        }
        before
    }

    pub fn remove(&mut self, key: &str) -> Option<T> {
        // Look first: a miss must not copy the path.
        self.get(key)?;
        let removed = remove(Arc::make_mut(&mut self.root), key);
        while let Node::Inner(children) = &*self.root
            && children.len() == 1
            && let Some(only) = children.first()
        {
            self.root = only.node.clone();
        }
        removed
    }

    /// How many keys are smaller than `bound`.
    pub fn rank(&self, bound: &[u8]) -> usize {
        let mut rank = 0;
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(items) => return rank + items.partition_point(|i| i.key().as_bytes() < bound),
                Node::Inner(children) => {
                    let at = position(children, bound);
                    rank += children.iter().take(at).map(|c| c.len).sum::<usize>();
                    match children.get(at) {
                        Some(child) => node = &child.node,
                        None => return rank,
                    }
                }
            }
        }
    }

    /// Items in key order, from the first key that is not smaller than `from`.
    pub fn iter_from(&self, from: &[u8]) -> Iter<'_, T> {
        let mut path = Vec::with_capacity(4);
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(items) => {
                    path.push((node, items.partition_point(|i| i.key().as_bytes() < from)));
                    return Iter { path };
                }
                Node::Inner(children) => {
                    let at = position(children, from);
                    path.push((node, at + 1));
                    match children.get(at) {
                        Some(child) => node = &child.node,
                        None => return Iter { path },
                    }
                }
            }
        }
    }
}

/// Index of the child below which `key` belongs.
fn position<T>(children: &[Child<T>], key: &[u8]) -> usize {
    children.partition_point(|c| c.low.as_bytes() <= key).saturating_sub(1)
}

impl<T: Keyed> Node<T> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Inner(children) => children.iter().map(|c| c.len).sum(),
        }
    }

    fn width(&self) -> usize {
        match self {
            Node::Leaf(items) => items.len(),
            Node::Inner(children) => children.len(),
        }
    }

    fn low(&self) -> Option<Arc<str>> {
        match self {
            Node::Leaf(items) => items.first().map(|i| i.key().clone()),
            Node::Inner(children) => children.first().map(|c| c.low.clone()),
        }
    }

    /// Cuts an overfull node in two; returns the right half.
    fn split(&mut self) -> Option<Child<T>> {
        if self.width() <= MAX {
            return None;
        }
        self.split_at(self.width() / 2)
    }

    fn split_at(&mut self, at: usize) -> Option<Child<T>> {
        Child::of(match self {
            Node::Leaf(items) => Node::Leaf(items.split_off(at)),
            Node::Inner(children) => Node::Inner(children.split_off(at)),
        })
    }

    /// Appends the right neighbour, a node of the same height.
    fn append(&mut self, right: Node<T>) {
        match (self, right) {
            (Node::Leaf(items), Node::Leaf(more)) => items.extend(more),
            (Node::Inner(children), Node::Inner(more)) => children.extend(more),
            // All leaves are at the same depth.
            _ => debug_assert!(false, "neighbours of different height"),
        }
    }
}

impl<T: Keyed> Child<T> {
    fn of(node: Node<T>) -> Option<Self> {
        Self::shared(Arc::new(node))
    }

    /// `None` for an empty node, which has no low key.
    fn shared(node: Arc<Node<T>>) -> Option<Self> {
        Some(Child {
            low: node.low()?,
            len: node.len(),
            node,
        })
    }
}

fn insert<T: Keyed>(node: &mut Node<T>, item: T) -> (Option<T>, Option<Child<T>>) {
    let before = match node {
        Node::Leaf(items) => match items.binary_search_by(|i| i.key().cmp(item.key())) {
            Ok(at) => items.get_mut(at).map(|there| std::mem::replace(there, item)),
            Err(at) => {
                items.insert(at, item);
                None
            }
        },
        Node::Inner(children) => {
            let at = position(children, item.key().as_bytes());
            let Some(child) = children.get_mut(at) else {
                return (None, None);
            };
            if *item.key() < child.low {
                child.low = item.key().clone();
            }
            let (before, split) = insert(Arc::make_mut(&mut child.node), item);
            child.len = child.node.len();
            if let Some(right) = split {
                children.insert(at + 1, right);
            }
            before
        }
    };
    (before, node.split())
}

fn remove<T: Keyed>(node: &mut Node<T>, key: &str) -> Option<T> {
    match node {
        Node::Leaf(items) => {
            let at = items.binary_search_by(|i| (**i.key()).cmp(key)).ok()?;
            Some(items.remove(at))
        }
        Node::Inner(children) => {
            let at = position(children, key.as_bytes());
            let child = children.get_mut(at)?;
            let removed = remove(Arc::make_mut(&mut child.node), key);
            child.len = child.node.len();
            if child.node.width() < MIN {
                rebalance(children, at);
            }
            removed
        }
    }
}

/// Joins the too small child with a neighbour, cutting the result again if it is too large.
fn rebalance<T: Keyed>(children: &mut Vec<Child<T>>, at: usize) {
    let left = if at + 1 < children.len() {
        at
    } else {
        at.saturating_sub(1)
    };
    if left + 1 >= children.len() {
        return; // the only child
    }
    let right = children.remove(left + 1);
    let Some(child) = children.get_mut(left) else { return };
    let node = Arc::make_mut(&mut child.node);
    node.append(Arc::unwrap_or_clone(right.node));
    let split = node.split();
    child.len = child.node.len();
    if let Some(low) = child.node.low() {
        child.low = child.low.clone().min(low);
    }
    if let Some(right) = split {
        children.insert(left + 1, right);
    }
}

/// Iterator of [`Tree::iter_from`].
pub(crate) struct Iter<'a, T> {
    /// Nodes from the root down, each with the index to visit next.
    path: Vec<(&'a Node<T>, usize)>,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            let (node, at) = self.path.last_mut()?;
            match node {
                Node::Leaf(items) => match items.get(*at) {
                    Some(item) => {
                        *at += 1;
                        return Some(item);
                    }
                    None => self.path.pop(),
                },
                Node::Inner(children) => match children.get(*at) {
                    Some(child) => {
                        *at += 1;
                        let below = &*child.node;
                        self.path.push((below, 0));
                        continue;
                    }
                    None => self.path.pop(),
                },
            };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Item(Arc<str>, u32);

    impl Keyed for Item {
        fn key(&self) -> &Arc<str> {
            &self.0
        }
    }

    fn key(n: u16) -> Arc<str> {
        format!("{n:05}").into()
    }

    fn check(tree: &Tree<Item>, model: &BTreeMap<Arc<str>, u32>) {
        let items: Vec<_> = tree.iter_from(b"").cloned().collect();
        let expected: Vec<_> = model.iter().map(|(k, v)| Item(k.clone(), *v)).collect();
        assert_eq!(items, expected);
        assert_eq!(tree.len(), model.len());
        for probe in [0u16, 1, 77, 300, 2999, 40000] {
            let from = key(probe);
            assert_eq!(tree.rank(from.as_bytes()), model.range(..from.clone()).count());
            assert_eq!(
                tree.iter_from(from.as_bytes()).next().map(|i| &i.0),
                model.range(from.clone()..).next().map(|e| e.0)
            );
            assert_eq!(tree.get(&from).map(|i| i.1), model.get(&from).copied());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn tree_equals_a_sorted_map_and_snapshots_never_change(
            bulk in 0u16..3000,
            writes in proptest::collection::vec((0u16..3000, any::<bool>()), 0..3000),
        ) {
            let mut model: BTreeMap<Arc<str>, u32> = (0..bulk).map(|n| (key(n), 0)).collect();
            let mut tree = Tree::from_sorted(model.iter().map(|(k, v)| Item(k.clone(), *v)).collect());
            let mut snapshots = vec![];
            for (step, (n, put)) in writes.into_iter().enumerate() {
                if step % 500 == 0 {
                    snapshots.push((tree.clone(), model.clone()));
                }
                let before = if put {
                    tree.insert(Item(key(n), step as u32)).map(|i| i.1).ok_or(model.insert(key(n), step as u32))
                } else {
                    tree.remove(&key(n)).map(|i| i.1).ok_or(model.remove(&key(n)))
                };
                prop_assert!(before.is_ok() || before == Err(None));
            }
            for (tree, model) in snapshots {
                check(&tree, &model);
            }
            check(&tree, &model);
            for k in model.keys().cloned().collect::<Vec<_>>() {
                tree.remove(&k);
            }
            prop_assert_eq!(tree.len(), 0);
        }
    }
}
