//! Shortest paths in a connected graph whose edges have lengths 1 to 9. The level is the number of places.
//!
//! The graph is a random tree and half as many edges again. The path that is asked for has at least two edges.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::problem::Problem;
use crate::task::graders::shortest_path::Graph;

/// Two nodes, the smaller one first, and a length.
type Edge = (usize, usize, u32);

/// Pairs of places that are tried before another graph is drawn.
const PAIRS: usize = 10;

/// Draws a graph of `level` places, and two of them.
pub fn make(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    loop {
        let edges = edges(level, rng);
        let graph = Graph::new(level, &edges);
        for _ in 0..PAIRS {
            let [from, to] = [0, 1].map(|_| rng.random_range(0..level as u32) as usize);
            if let Some(path) = graph.shortest_path(from, to).filter(|path| path.len() > 2) {
                return problem(&edges, &path);
            }
        }
    }
}

fn edges(nodes: usize, rng: &mut ChaCha8Rng) -> Vec<Edge> {
    let mut order: Vec<usize> = (0..nodes).collect();
    order.shuffle(rng);
    let mut pairs: Vec<(usize, usize)> =
        (1..nodes).map(|it| (order[it], order[rng.random_range(0..it as u32) as usize])).map(sorted).collect();
    let wanted = (nodes - 1 + nodes / 2).min(nodes * (nodes - 1) / 2);
    while pairs.len() < wanted {
        let pair = sorted((rng.random_range(0..nodes as u32) as usize, rng.random_range(0..nodes as u32) as usize));
        if pair.0 != pair.1 && !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    pairs.sort_unstable();
    pairs.into_iter().map(|(a, b)| (a, b, rng.random_range(1..=9))).collect()
}

fn sorted((a, b): (usize, usize)) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn problem(edges: &[Edge], path: &[usize]) -> Problem {
    let name = |node: usize| char::from(b'A' + node as u8).to_string();
    let (from, to) = (name(path[0]), name(path[path.len() - 1]));
    let listed: Vec<String> =
        edges.iter().map(|(a, b, length)| format!("{}-{} {length}", name(*a), name(*b))).collect();
    let question = format!(
        "Roads and their lengths: {}. What is the shortest way from {from} to {to}? Answer in the form X-Y-Z.",
        listed.join(", ")
    );
    let named: Vec<_> = edges.iter().map(|(a, b, length)| (name(*a), name(*b), *length)).collect();
    let solution = path.iter().map(|node| name(*node)).collect::<Vec<_>>().join("-");
    Problem::new(question, json!({"edges": named, "from": from, "to": to}).to_string(), solution)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_graph_reads_as_roads() {
        let problem = problem(&[(0, 1, 4), (1, 2, 7)], &[0, 1, 2]);
        let expected =
            "Roads and their lengths: A-B 4, B-C 7. What is the shortest way from A to C? Answer in the form X-Y-Z.";
        assert_eq!((problem.question.as_str(), problem.solution.as_str()), (expected, "A-B-C"));
        assert_eq!(problem.truth, r#"{"edges":[["A","B",4],["B","C",7]],"from":"A","to":"C"}"#);
    }

    #[test]
    fn every_graph_is_connected_and_simple() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for nodes in (4..=20).cycle().take(500) {
            let edges = edges(nodes, &mut rng);
            let graph = Graph::new(nodes, &edges);
            assert!((1..nodes).all(|to| graph.shortest_path(0, to).is_some()), "{edges:?}");
            assert!(edges.windows(2).all(|it| (it[0].0, it[0].1) < (it[1].0, it[1].1)), "{edges:?}");
            assert!(edges.iter().all(|(a, b, length)| a < b && (1..=9).contains(length)), "{edges:?}");
        }
    }
}
