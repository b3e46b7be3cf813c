//! Expressions with calls in place of operators.

use std::collections::HashSet;

use minijinja::Value;
use minijinja::machinery::Span;
use minijinja::machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, Expr, Spanned, UnaryOpKind};

use super::text::{Parsed, refused};

/// What must be known of the template around an expression.
#[derive(Clone, Copy)]
pub struct Expressions<'t> {
    pub text: &'static str,
    /// Macros that have parameters with defaults.
    pub with_defaults: &'t HashSet<&'static str>,
}

impl Expressions<'_> {
    fn all(&self, all: &[Expr<'static>]) -> Parsed<Vec<Expr<'static>>> {
        all.iter().map(|it| self.one(it)).collect()
    }

    pub fn one(&self, expression: &Expr<'static>) -> Parsed<Expr<'static>> {
        let span = expression.span();
        Ok(match expression {
            Expr::Var(it) if ["self", "super", "varargs", "kwargs"].contains(&it.id) => {
                return Err(refused(span, &format!("`{}` is not supported", it.id)));
            }
            Expr::Var(it) => variable(it.id, span),
            Expr::Const(it) => constant(it.value.clone(), span),
            Expr::List(it) => {
                let items = self.all(&it.items)?;
                match self.text.as_bytes().get(span.start_offset as usize) {
                    Some(b'[') => call("kept", span, vec![Expr::List(Spanned::new(ast::List { items }, span))]),
                    // minijinja has no tuples, and parses them as lists.
                    _ => call("tuple", span, items),
                }
            }
            Expr::Map(it) => {
                let map = ast::Map { keys: self.all(&it.keys)?, values: self.all(&it.values)? };
                call("kept", span, vec![Expr::Map(Spanned::new(map, span))])
            }
            Expr::UnaryOp(it) => match it.op {
                UnaryOpKind::Neg => call("negate", span, vec![self.one(&it.expr)?]),
                UnaryOpKind::Not => self.not(self.one(&it.expr)?, span),
            },
            Expr::BinOp(it) => self.binary(it.op, &it.left, &it.right, span)?,
            Expr::Compare(it) => self.comparison(it)?,
            Expr::IfExpr(it) => {
                let (test_expr, true_expr) = (self.one(&it.test_expr)?, self.one(&it.true_expr)?);
                let false_expr = it.false_expr.as_ref().map(|it| self.one(it)).transpose()?;
                Expr::IfExpr(Spanned::new(ast::IfExpr { test_expr, true_expr, false_expr }, span))
            }
            Expr::Filter(it) => {
                let expr = it.expr.as_ref().map(|it| self.one(it)).transpose()?;
                Expr::Filter(Spanned::new(ast::Filter { name: it.name, expr, args: self.arguments(&it.args)? }, span))
            }
            Expr::Test(it) if is_test(&it.expr) => return Err(refused(span, "Jinja2 knows no test of a test")),
            Expr::Test(it) => {
                let test = ast::Test { name: it.name, expr: self.one(&it.expr)?, args: self.arguments(&it.args)? };
                Expr::Test(Spanned::new(test, span))
            }
            Expr::GetAttr(it) => call(".", span, vec![self.object(&it.expr)?, constant(Value::from(it.name), span)]),
            Expr::GetItem(it) => call("[]", span, vec![self.object(&it.expr)?, self.one(&it.subscript_expr)?]),
            Expr::Slice(it) => {
                let bound = |bound: &Option<Expr<'static>>| match bound {
                    Some(it) => self.one(it),
                    None => Ok(constant(Value::from(()), span)),
                };
                let bounds = [bound(&it.start)?, bound(&it.stop)?, bound(&it.step)?];
                call("[:]", span, std::iter::once(self.object(&it.expr)?).chain(bounds).collect())
            }
            Expr::Call(it) => self.call(it)?,
        })
    }

    /// What has an attribute, an item or a method. In `-a.b` that is `a` to Jinja2, but `-a` to minijinja.
    fn object(&self, expression: &Expr<'static>) -> Parsed<Expr<'static>> {
        match expression {
            Expr::UnaryOp(it) if matches!(it.op, UnaryOpKind::Neg) => {
                Err(refused(it.span(), "a minus in front of an attribute or an item is not supported"))
            }
            _ => self.one(expression),
        }
    }

    fn not(&self, expr: Expr<'static>, span: Span) -> Expr<'static> {
        Expr::UnaryOp(Spanned::new(ast::UnaryOp { op: UnaryOpKind::Not, expr }, span))
    }

    fn binary(&self, op: BinOpKind, left: &Expr<'static>, right: &Expr<'static>, span: Span) -> Parsed<Expr<'static>> {
        let (left, right) = (self.one(left)?, self.one(right)?);
        Ok(match operator(op) {
            Some(name) => call(name, span, vec![left, right]),
            None => {
                // Hidden in a call, because minijinja computes `and` of two constants as true or false.
                let left = call("the", span, vec![left]);
                Expr::BinOp(Spanned::new(ast::BinOp { op, left, right }, span))
            }
        })
    }

    /// `a < b < c` as `a < b and b < c`.
    fn comparison(&self, it: &Spanned<ast::Compare<'static>>) -> Parsed<Expr<'static>> {
        let (mut left, mut whole) = (&it.expr, None);
        for step in &it.ops {
            let op = match step.op {
                CompareOpKind::Eq => BinOpKind::Eq,
                CompareOpKind::Ne => BinOpKind::Ne,
                CompareOpKind::Lt => BinOpKind::Lt,
                CompareOpKind::Lte => BinOpKind::Lte,
                CompareOpKind::Gt => BinOpKind::Gt,
                CompareOpKind::Gte => BinOpKind::Gte,
                CompareOpKind::In | CompareOpKind::NotIn => BinOpKind::In,
            };
            let mut pair = self.binary(op, left, &step.expr, it.span())?;
            if matches!(step.op, CompareOpKind::NotIn) {
                pair = self.not(pair, it.span());
            }
            whole = Some(match whole {
                None => pair,
                Some(left) => {
                    Expr::BinOp(Spanned::new(ast::BinOp { op: BinOpKind::ScAnd, left, right: pair }, it.span()))
                }
            });
            left = &step.expr;
        }
        whole.ok_or_else(|| refused(it.span(), "a comparison with nothing"))
    }

    pub fn call(&self, it: &Spanned<ast::Call<'static>>) -> Parsed<Expr<'static>> {
        let mut args = self.arguments(&it.args)?;
        if let Expr::GetAttr(method) = &it.expr {
            let name = constant(Value::from(method.name), it.span());
            args.splice(0..0, [CallArg::Pos(self.object(&method.expr)?), CallArg::Pos(name)]);
            return Ok(call_with("()", it.span(), args));
        }
        if let Expr::Var(name) = &it.expr
            && self.with_defaults.contains(name.id)
        {
            args = args.into_iter().map(given).collect();
        }
        Ok(Expr::Call(Spanned::new(ast::Call { expr: self.one(&it.expr)?, args }, it.span())))
    }

    fn arguments(&self, all: &[CallArg<'static>]) -> Parsed<Vec<CallArg<'static>>> {
        let argument = |it: &CallArg<'static>| {
            Ok(match it {
                CallArg::Pos(it) => CallArg::Pos(self.one(it)?),
                CallArg::Kwarg(name, it) => CallArg::Kwarg(name, self.one(it)?),
                CallArg::PosSplat(it) => CallArg::PosSplat(self.one(it)?),
                CallArg::KwargSplat(it) => CallArg::KwargSplat(self.one(it)?),
            })
        };
        all.iter().map(argument).collect()
    }
}

/// An argument that must not be undefined: minijinja would take the parameter's default.
fn given(argument: CallArg<'static>) -> CallArg<'static> {
    let check = |it: Expr<'static>| call("given", it.span(), vec![it]);
    match argument {
        CallArg::Pos(it) => CallArg::Pos(check(it)),
        CallArg::Kwarg(name, it) => CallArg::Kwarg(name, check(it)),
        other => other,
    }
}

/// The function that stands for an operator; `and` and `or` have none.
fn operator(op: BinOpKind) -> Option<&'static str> {
    Some(match op {
        BinOpKind::Eq => "==",
        BinOpKind::Ne => "!=",
        BinOpKind::Lt => "<",
        BinOpKind::Lte => "<=",
        BinOpKind::Gt => ">",
        BinOpKind::Gte => ">=",
        BinOpKind::Add => "+",
        BinOpKind::Sub => "-",
        BinOpKind::Mul => "*",
        BinOpKind::Div => "/",
        BinOpKind::FloorDiv => "//",
        BinOpKind::Rem => "%",
        BinOpKind::Pow => "**",
        BinOpKind::Concat => "~",
        BinOpKind::In => "in",
        BinOpKind::ScAnd | BinOpKind::ScOr => return None,
    })
}

fn is_test(expression: &Expr<'static>) -> bool {
    match expression {
        Expr::Test(_) => true,
        Expr::UnaryOp(it) => matches!(it.op, UnaryOpKind::Not) && is_test(&it.expr),
        _ => false,
    }
}

pub fn variable(id: &'static str, span: Span) -> Expr<'static> {
    Expr::Var(Spanned::new(ast::Var { id }, span))
}

pub fn constant(value: Value, span: Span) -> Expr<'static> {
    Expr::Const(Spanned::new(ast::Const { value }, span))
}

pub fn call(name: &'static str, span: Span, args: Vec<Expr<'static>>) -> Expr<'static> {
    call_with(name, span, args.into_iter().map(CallArg::Pos).collect())
}

fn call_with(name: &'static str, span: Span, args: Vec<CallArg<'static>>) -> Expr<'static> {
    Expr::Call(Spanned::new(ast::Call { expr: variable(name, span), args }, span))
}
