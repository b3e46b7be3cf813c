//! The gradients of a loss on the last hidden states, with every activation kept or with blocks computed again.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};

use super::lora::Lora;
use super::model::{Model, Rows};
use super::optim::NamedGrads;
use super::parallel;

/// What a forward pass goes through, and what of it is trained.
pub struct Graph<'a> {
    pub model: &'a Model,
    pub lora: Option<&'a Lora>,
    pub vars: &'a BTreeMap<String, Var>,
    /// Whether only each block's input is kept, and the block computed again when its gradient comes back.
    pub recomputes: bool,
}

impl Graph<'_> {
    /// The gradients of `loss`, a function of the residual stream behind the last block (N × D), and what it gives beside.
    /// Both ways give the same bits.
    pub fn gradients<R>(
        &self,
        rows: &Rows,
        loss: impl FnOnce(&Tensor) -> Result<(Tensor, R)>,
    ) -> Result<(NamedGrads, R)> {
        if self.recomputes {
            return self.by_block(rows, loss);
        }
        let (loss, beside) = loss(&self.model.hidden(rows, self.lora)?)?;
        Ok((parallel::gradients(&loss, self.vars)?, beside))
    }

    fn by_block<R>(&self, rows: &Rows, loss: impl FnOnce(&Tensor) -> Result<(Tensor, R)>) -> Result<(NamedGrads, R)> {
        let mut inputs = self.model.checkpoints(rows, self.lora)?;
        let Some(last) = inputs.pop() else { unreachable!("the output of the last block is there") };
        let hidden = Var::from_tensor(&last)?;
        let (loss, beside) = loss(hidden.as_tensor())?;
        let (mut grad, parts) = self.step_back(&loss, &hidden)?;
        drop((loss, last, hidden));
        let mut all = vec![parts];
        while let Some(input) = inputs.pop() {
            let input = Var::from_tensor(&input)?;
            let output = self.model.block(inputs.len(), input.as_tensor(), rows, self.lora)?;
            // The derivative of output·grad with respect to the output is grad, and backward begins with ones.
            let (next, parts) = self.step_back(&(output * grad)?, &input)?;
            grad = next;
            all.push(parts);
        }
        if self.model.weights.embed_tokens.is_variable() {
            let loss = (self.model.embed(rows)? * grad)?;
            all.push(parallel::gradients(&loss, self.vars)?);
        }
        Ok((parallel::sum(all)?, beside))
    }

    /// The gradients of `loss` with respect to `input` and to what is trained.
    fn step_back(&self, loss: &Tensor, input: &Var) -> Result<(Tensor, NamedGrads)> {
        let mut store = loss.backward()?;
        let missing = || candle_core::Error::Msg("a block passed no gradient".into());
        let grad = store.remove(input).ok_or_else(missing)?;
        Ok((grad, parallel::take(&mut store, self.vars)))
    }
}
