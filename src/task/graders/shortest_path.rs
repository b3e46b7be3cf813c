//! Shortest paths: the ground truth is `{"edges": [["A", "B", 4], ["B", "C", 1]], "from": "A", "to": "C"}`. Edges have
//! no direction, and their lengths are whole numbers.
//!
//! Any path along the edges that is as short as possible is right: `A-B-C`, `A -> B -> C`, `A, B, C`. The least length
//! is computed here. Both modes are the same, but the published mode reads the answer tags alone.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use serde::Deserialize;

use super::Judge;
use super::answer::{self, Answer, Mode};
use crate::task::grade::Verdict;

/// The graph, and the two nodes that a path must join.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The number of each node.
    nodes: HashMap<String, usize>,
    graph: Graph,
    from: usize,
    to: usize,
    /// The length of a shortest path.
    least: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Truth {
    edges: Vec<(String, String, u32)>,
    from: String,
    to: String,
}

impl Expected {
    /// # Errors
    /// Anything but an object of the form above; a node whose name is not letters and digits; two ends that are the
    /// same, or that no path joins.
    pub fn new(ground_truth: &str) -> Result<Self, String> {
        let Truth { edges, from, to } = serde_json::from_str(ground_truth).map_err(|e| {
            format!(r#"expected {{"edges": [["A", "B", 4], ["B", "C", 1]], "from": "A", "to": "C"}}: {e}"#)
        })?;
        let mut nodes = HashMap::new();
        let mut numbered = Vec::with_capacity(edges.len());
        for (a, b, length) in edges {
            let mut number = |name: String| match !name.is_empty() && name.chars().all(is_of_name) {
                true => {
                    let next = nodes.len();
                    Ok(*nodes.entry(name).or_insert(next))
                }
                false => Err(format!("the node {name:?} must have a name of letters, digits and _")),
            };
            numbered.push((number(a)?, number(b)?, length));
        }
        let end = |name: &str| nodes.get(name).copied().ok_or_else(|| format!("the node {name:?} has no edge"));
        let (from, to) = (end(&from)?, end(&to)?);
        if from == to {
            return Err("from and to are the same node".into());
        }
        let graph = Graph::new(nodes.len(), &numbered);
        let path = graph.shortest_path(from, to).ok_or("no path joins from and to")?;
        let least = graph.length(&path).ok_or("this is a bug: the shortest path has an edge that is not there")?;
        Ok(Self { nodes, graph, from, to, least })
    }

    fn verdict_on(&self, text: &str) -> Option<Verdict> {
        let paths = self.paths(text);
        let mut whole = paths.iter().filter(|path| path.first() == Some(&self.from) && path.last() == Some(&self.to));
        let Some(path) = whole.next() else { return paths.last().map(|_| Verdict::Wrong) };
        let right = whole.all(|other| other == path) && self.graph.length(path) == Some(self.least);
        Some(if right { Verdict::Right } else { Verdict::Wrong })
    }

    /// The rows of two or more nodes in a text. Any other word ends a row, except for "to".
    fn paths(&self, text: &str) -> Vec<Vec<usize>> {
        let (mut paths, mut path) = (Vec::new(), Vec::new());
        for word in text.split(|c| !is_of_name(c)).filter(|word| !word.is_empty()) {
            match self.nodes.get(word) {
                Some(&node) => path.push(node),
                None if word == "to" => {}
                None => paths.push(std::mem::take(&mut path)),
            }
        }
        paths.push(path);
        paths.retain(|path| path.len() > 1);
        paths
    }
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Judge for Expected {
    fn verdict(&self, completion: &str, mode: Mode) -> Verdict {
        let (found, unreadable) = match mode {
            Mode::Published => (answer::published(completion), Verdict::Wrong),
            Mode::Lenient => (answer::lenient(completion).map(stated), Verdict::Missing),
        };
        found.map_or(Verdict::Missing, |text| self.verdict_on(text).unwrap_or(unreadable))
    }
}

/// The part of an answer that is the path.
fn stated(answer: Answer<'_>) -> &str {
    match answer {
        Answer::Free(text) => text.lines().next_back().unwrap_or_default(),
        _ => answer.text(),
    }
}

/// A graph whose edges have lengths and no direction. Of several edges between two nodes the shortest counts.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The neighbours of each node, and how far they are.
    neighbours: Vec<HashMap<usize, u32>>,
}

impl Graph {
    /// A graph of the nodes 0 to `nodes` − 1.
    ///
    /// # Panics
    /// If an edge has another node.
    pub fn new(nodes: usize, edges: &[(usize, usize, u32)]) -> Self {
        let mut neighbours = vec![HashMap::new(); nodes];
        for &(a, b, length) in edges {
            for (a, b) in [(a, b), (b, a)] {
                let known = neighbours[a].entry(b).or_insert(length);
                *known = length.min(*known);
            }
        }
        Self { neighbours }
    }

    /// The length of a path, if all its edges are there.
    pub fn length(&self, path: &[usize]) -> Option<u64> {
        path.windows(2).map(|it| self.neighbours[it[0]].get(&it[1]).map(|length| u64::from(*length))).sum()
    }

    /// A shortest path, by Dijkstra's algorithm. The same graph always gives the same one.
    pub fn shortest_path(&self, from: usize, to: usize) -> Option<Vec<usize>> {
        let before = self.nodes_before(from);
        let mut path = vec![to];
        let mut at = to;
        while at != from {
            at = before[at]?;
            path.push(at);
        }
        path.reverse();
        Some(path)
    }

    /// The node before each node on a shortest path from `from`, which stands before itself. None where no path leads.
    fn nodes_before(&self, from: usize) -> Vec<Option<usize>> {
        let mut before = vec![None; self.neighbours.len()];
        let mut queue = BinaryHeap::from([Reverse((0_u64, from, from))]);
        while let Some(Reverse((distance, node, previous))) = queue.pop() {
            if before[node].is_some() {
                continue;
            }
            before[node] = Some(previous);
            let steps = self.neighbours[node].iter().filter(|(next, _)| before[**next].is_none());
            queue.extend(steps.map(|(next, length)| Reverse((distance + u64::from(*length), *next, node))));
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::assert_verdicts;
    use super::*;
    use crate::task::grade::Verdict::{Missing, Right, Wrong};
    use proptest::prelude::*;

    /// A–B–D and A–C–D have length 5, A–D has 6.
    const TRUTH: &str = r#"{"edges": [["A", "B", 2], ["B", "D", 3], ["A", "C", 4], ["C", "D", 1], ["A", "D", 6], ["B", "E", 1]],
        "from": "A", "to": "D"}"#;

    fn check(answer: &str, lenient: Verdict, published: Verdict) {
        let expected = Expected::new(TRUTH).unwrap();
        let completion = format!("<think>A-D</think><answer>{answer}</answer>");
        assert_verdicts(&expected, &completion, lenient, published);
    }

    #[test]
    fn every_shortest_path_is_right() {
        for answer in [
            "A-B-D",
            "A-C-D",
            "A -> B -> D",
            "A → C → D",
            "A, B, D",
            "A B D",
            "A to B to D",
            "[A, B, D]",
            "A-B-D (length 5)",
            "The shortest path is A-B-D.",
            "A to B is 2, B to D is 3: A-B-D",
            r"$A \to B \to D$",
        ] {
            check(answer, Right, Right);
        }
        check(r"\boxed{A-B-D}", Right, Right);
    }

    #[test]
    fn other_paths_are_wrong() {
        for answer in ["A-D", "D-B-A", "A-B-E-D", "A-B-A-B-D", "B-D", "A-B", "A-B-D or A-C-D", "A-B-D-E"] {
            check(answer, Wrong, Wrong);
        }
        for answer in ["", "5", "D", "north", "ABD"] {
            check(answer, Missing, Wrong);
        }
    }

    #[test]
    fn ground_truths_are_read_or_refused() {
        for (truth, word) in [
            ("", "edges"),
            (r#"{"edges": [["A", "B", 1]], "from": "A", "to": "A"}"#, "same"),
            (r#"{"edges": [["A", "B", 1]], "from": "A", "to": "C"}"#, "\"C\""),
            (r#"{"edges": [["A", "B", 1], ["C", "D", 1]], "from": "A", "to": "C"}"#, "no path"),
            (r#"{"edges": [["A-B", "B", 1]], "from": "A", "to": "B"}"#, "\"A-B\""),
            (r#"{"edges": [["A", "B", -1]], "from": "A", "to": "B"}"#, "-1"),
        ] {
            let problem = Expected::new(truth).unwrap_err();
            assert!(problem.contains(word), "{truth:?}: {problem}");
        }
    }

    /// The least length of all paths that visit no node twice.
    fn brute_force(edges: &[(usize, usize, u32)], path: &mut Vec<usize>, length: u64, to: usize) -> Option<u64> {
        let at = *path.last().unwrap();
        if at == to {
            return Some(length);
        }
        let steps = edges.iter().flat_map(|&(a, b, it)| [(a, b, it), (b, a, it)]).filter(|(a, ..)| *a == at);
        let mut least = None;
        for (_, next, step) in steps {
            if !path.contains(&next) {
                path.push(next);
                least = [least, brute_force(edges, path, length + u64::from(step), to)].into_iter().flatten().min();
                path.pop();
            }
        }
        least
    }

    proptest! {
        #[test]
        fn no_path_is_shorter(edges in proptest::collection::vec((0..6_usize, 0..6_usize, 0..5_u32), 1..12)) {
            let graph = Graph::new(6, &edges);
            for to in 1..6 {
                let found = graph.shortest_path(0, to);
                prop_assert_eq!(brute_force(&edges, &mut vec![0], 0, to), found.as_ref().map(|it| graph.length(it).unwrap()));
                if let Some(path) = found {
                    prop_assert_eq!((path[0], *path.last().unwrap()), (0, to));
                }
            }
        }
    }
}
