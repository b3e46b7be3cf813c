//! Sudoku: a grid in which every row, column and box holds each digit once, with blanks that have exactly one solution.
//!
//! Levels 1 to 3 are 4x4 with 4, 6 and 8 blanks; 4 to 6 are 6x6 with 10, 15 and 20; 7 to 9 are 9x9 with 25, 35 and 45.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::problem::Problem;

/// The box's height and width, and the number of blanks, of level 1, 2, ….
const LEVELS: [(usize, usize, usize); 9] =
    [(2, 2, 4), (2, 2, 6), (2, 2, 8), (2, 3, 10), (2, 3, 15), (2, 3, 20), (3, 3, 25), (3, 3, 35), (3, 3, 45)];

/// Draws a puzzle of `level`.
pub fn make(level: usize, rng: &mut ChaCha8Rng) -> Problem {
    let (height, width, blanks) = LEVELS[level - 1];
    loop {
        let solved = Grid::empty(height, width).filled(rng);
        if let Some(puzzle) = solved.with_blanks(blanks, rng) {
            return problem(&puzzle, &solved);
        }
    }
}

fn problem(puzzle: &Grid, solved: &Grid) -> Problem {
    let Grid { height, width, .. } = *puzzle;
    let size = puzzle.size();
    let question = format!(
        "Fill the blanks of this sudoku with the digits 1 to {size}. Every row, every column and every box ({height} rows, {width} \
         columns) holds each digit once. Answer with the whole grid.\n{}",
        puzzle.text()
    );
    let rows: Vec<&[u8]> = solved.cells.chunks(size).collect();
    Problem::new(question, serde_json::json!(rows).to_string(), solved.text())
}

/// A grid, row by row. A blank is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grid {
    /// Of a box; the grid's size is height times width.
    height: usize,
    width: usize,
    cells: Vec<u8>,
}

impl Grid {
    fn empty(height: usize, width: usize) -> Self {
        Self { height, width, cells: vec![0; (height * width).pow(2)] }
    }

    fn size(&self) -> usize {
        self.height * self.width
    }

    /// One line per row, with `_` for a blank.
    fn text(&self) -> String {
        let cell = |it: &u8| if *it == 0 { "_".to_owned() } else { it.to_string() };
        let row = |cells: &[u8]| cells.iter().map(cell).collect::<Vec<_>>().join(" ");
        self.cells.chunks(self.size()).map(row).collect::<Vec<_>>().join("\n")
    }

    /// A random solution.
    fn filled(&self, rng: &mut ChaCha8Rng) -> Self {
        let mut order: Vec<u8> = (1..=self.size() as u8).collect();
        let mut search = Search::new(self, None, 1);
        // The first row decides the names of the digits. Below it every search tries them in another order.
        order.shuffle(rng);
        for (at, digit) in order.iter().enumerate() {
            search.set(at, *digit);
        }
        search.descend(Some(rng));
        let cells = search.solution.expect("this is a bug: a first row can be completed");
        Self { cells, ..*self }
    }

    /// The same grid with so many blanks, and no other solution. None if the cells cannot be blank in the order that is
    /// drawn.
    fn with_blanks(&self, blanks: usize, rng: &mut ChaCha8Rng) -> Option<Self> {
        let mut order: Vec<usize> = (0..self.cells.len()).collect();
        order.shuffle(rng);
        let (mut grid, mut left) = (self.clone(), blanks);
        for at in order {
            if left == 0 {
                break;
            }
            let digit = std::mem::take(&mut grid.cells[at]);
            // The grid had one solution: another one differs in this cell.
            match Search::new(&grid, Some((at, digit)), 1).run() {
                0 => left -= 1,
                _ => grid.cells[at] = digit,
            }
        }
        (left == 0).then_some(grid)
    }

    /// The number of solutions, but at most `limit`.
    #[cfg(test)]
    fn solutions(&self, limit: usize) -> usize {
        Search::new(self, None, limit).run()
    }
}

/// An exhaustive search for solutions. It fills the blank with the fewest possible digits first.
struct Search {
    height: usize,
    width: usize,
    cells: Vec<u8>,
    /// Bit d is set if the digit d stands in the row, the column, the box.
    rows: [u16; 9],
    columns: [u16; 9],
    boxes: [u16; 9],
    /// This cell must not have this digit.
    forbidden: Option<(usize, u8)>,
    limit: usize,
    found: usize,
    solution: Option<Vec<u8>>,
}

impl Search {
    fn new(grid: &Grid, forbidden: Option<(usize, u8)>, limit: usize) -> Self {
        let mut search = Self {
            height: grid.height,
            width: grid.width,
            cells: vec![0; grid.cells.len()],
            rows: [0; 9],
            columns: [0; 9],
            boxes: [0; 9],
            forbidden,
            limit,
            found: 0,
            solution: None,
        };
        for (at, digit) in grid.cells.iter().enumerate().filter(|(_, digit)| **digit > 0) {
            search.set(at, *digit);
        }
        search
    }

    fn run(mut self) -> usize {
        self.descend(None);
        self.found
    }

    /// Tries every digit in the next blank, in random order if there is a generator.
    fn descend(&mut self, mut rng: Option<&mut ChaCha8Rng>) {
        let Some((at, possible)) = self.tightest() else {
            self.found += 1;
            self.solution = Some(self.cells.clone());
            return;
        };
        let mut digits: [u8; 9] = [0; 9];
        let mut count = 0;
        for digit in (1..=9).filter(|digit| possible >> digit & 1 == 1) {
            digits[count] = digit;
            count += 1;
        }
        if let Some(rng) = rng.as_deref_mut() {
            digits[..count].shuffle(rng);
        }
        for digit in &digits[..count] {
            self.set(at, *digit);
            self.descend(rng.as_deref_mut());
            self.clear(at, *digit);
            if self.found >= self.limit {
                return;
            }
        }
    }

    /// The blank with the fewest possible digits, and these as bits. None if there is no blank.
    fn tightest(&self) -> Option<(usize, u16)> {
        let mut best = None;
        let mut fewest = u32::MAX;
        for at in (0..self.cells.len()).filter(|at| self.cells[*at] == 0) {
            let possible = self.possible(at);
            if possible.count_ones() < fewest {
                (best, fewest) = (Some((at, possible)), possible.count_ones());
                if fewest <= 1 {
                    break;
                }
            }
        }
        best
    }

    fn possible(&self, at: usize) -> u16 {
        let (row, column, area) = self.place(at);
        let all = (2_u16 << (self.height * self.width)) - 2;
        let forbidden = self.forbidden.filter(|(cell, _)| *cell == at).map_or(0, |(_, digit)| 1 << digit);
        all & !(self.rows[row] | self.columns[column] | self.boxes[area] | forbidden)
    }

    /// The row, the column and the box of a cell.
    fn place(&self, at: usize) -> (usize, usize, usize) {
        let size = self.height * self.width;
        let (row, column) = (at / size, at % size);
        (row, column, row / self.height * self.height + column / self.width)
    }

    fn set(&mut self, at: usize, digit: u8) {
        self.cells[at] = digit;
        self.flip(at, digit);
    }

    fn clear(&mut self, at: usize, digit: u8) {
        self.cells[at] = 0;
        self.flip(at, digit);
    }

    fn flip(&mut self, at: usize, digit: u8) {
        let (row, column, area) = self.place(at);
        self.rows[row] ^= 1 << digit;
        self.columns[column] ^= 1 << digit;
        self.boxes[area] ^= 1 << digit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::HashSet;

    fn grid(height: usize, width: usize, text: &str) -> Grid {
        let cells: Vec<u8> = text.bytes().filter(u8::is_ascii_graphic).map(|it| it.saturating_sub(b'0')).collect();
        assert_eq!(cells.len(), (height * width).pow(2));
        Grid { height, width, cells }
    }

    #[test]
    fn there_are_as_many_grids_as_is_known() {
        // The numbers of 4x4 grids, and of 6x6 grids with a fixed first row: 28,200,960 / 6!.
        assert_eq!(Grid::empty(2, 2).solutions(usize::MAX), 288);
        assert_eq!(grid(2, 3, &format!("123456{}", ".".repeat(30))).solutions(usize::MAX), 28_200_960 / 720);
    }

    /// A puzzle that is printed in many places, with its solution.
    #[test]
    fn a_well_known_puzzle_has_its_only_solution() {
        let puzzle = "53..7.... 6..195... .98....6. 8...6...3 4..8.3..1 7...2...6 .6....28. ...419..5 ....8..79";
        let solution = "534678912 672195348 198342567 859761423 426853791 713924856 961537284 287419635 345286179";
        let puzzle = grid(3, 3, puzzle);
        assert_eq!(puzzle.solutions(usize::MAX), 1);
        let mut search = Search::new(&puzzle, None, 1);
        search.descend(None);
        assert_eq!(search.solution, Some(grid(3, 3, solution).cells));
    }

    #[test]
    fn every_puzzle_has_one_solution_with_every_digit_once() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for level in (1..=9).cycle().take(180) {
            let (height, width, blanks) = LEVELS[level - 1];
            let problem = make(level, &mut rng);
            let (_, text) = problem.question.split_once('\n').unwrap();
            let puzzle = grid(height, width, &text.replace('_', "0"));
            assert_eq!(puzzle.solutions(2), 1, "{text}");
            assert_eq!(puzzle.cells.iter().filter(|it| **it == 0).count(), blanks);
            let solved = grid(height, width, &problem.solution);
            assert!(puzzle.cells.iter().zip(&solved.cells).all(|(given, digit)| *given == 0 || given == digit));
            let size = height * width;
            let places = |of: fn(usize, usize, usize, usize) -> usize| {
                let cells = solved.cells.iter().enumerate();
                cells.map(|(at, digit)| (of(at / size, at % size, height, width), *digit)).collect::<HashSet<_>>().len()
            };
            assert!(solved.cells.iter().all(|digit| (1..=size as u8).contains(digit)));
            assert_eq!(places(|row, _, _, _| row), size * size);
            assert_eq!(places(|_, column, _, _| column), size * size);
            assert_eq!(places(|row, column, height, width| 100 * (row / height) + column / width), size * size);
        }
    }
}
