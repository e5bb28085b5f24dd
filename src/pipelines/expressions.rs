//! Expressions that are evaluated without a Python frame.

use pyo3::class::basic::CompareOp;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyString, PyTuple};

use crate::guarding::interned;
use crate::stepping::{self, call_one};

/// A value on its way: a number as the processor has it, for as long as nobody wants to see an object.
#[derive(Clone)]
pub enum Value<'py> {
    /// Whatever it is.
    Object(Bound<'py, PyAny>),
    /// An `int`.
    Int(i64),
    /// A `float`.
    Float(f64),
    /// `True` or `False`.
    Bool(bool),
}

impl<'py> Value<'py> {
    /// The value as an object.
    #[inline]
    pub fn object(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self {
            Self::Object(object) => object,
            Self::Int(value) => value.into_pyobject(py)?.into_any(),
            Self::Float(value) => PyFloat::new(py, value).into_any(),
            Self::Bool(value) => PyBool::new(py, value).to_owned().into_any(),
        })
    }

    /// The number that an object is, where it is a plain one.
    #[inline]
    #[must_use]
    pub fn number(self) -> Self {
        let Self::Object(object) = &self else { return self };
        if let Some(value) = stepping::small_int(object) {
            Self::Int(value)
        } else if let Some(value) = stepping::plain_float(object) {
            Self::Float(value)
        } else {
            self
        }
    }

    /// Whether Python would take it for true.
    #[inline]
    pub fn is_true(&self) -> PyResult<bool> {
        match self {
            Self::Object(object) => object.is_truthy(),
            Self::Int(value) => Ok(*value != 0),
            Self::Float(value) => Ok(*value != 0.0),
            Self::Bool(value) => Ok(*value),
        }
    }
}

/// An operation with two sides.
#[derive(Clone, Copy)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `//`
    FloorDiv,
    /// `%`
    Mod,
    /// `**`
    Pow,
    /// `&`: `and`, where the left side is a truth value
    And,
    /// `|`: `or`, where the left side is a truth value
    Or,
    /// `^`
    Xor,
    /// `<<`
    Left,
    /// `>>`
    Right,
    /// A comparison.
    Compare(CompareOp),
}

impl Operator {
    /// What comes of two numbers, if that is a number that fits, or a truth value.
    #[inline]
    fn quick(self, one: i64, other: i64) -> Quick {
        match self {
            Self::Add => Quick::int(one.checked_add(other)),
            Self::Sub => Quick::int(one.checked_sub(other)),
            Self::Mul => Quick::int(one.checked_mul(other)),
            Self::FloorDiv if one >= 0 && other > 0 => Quick::int(Some(one / other)),
            Self::Mod if one >= 0 && other > 0 => Quick::int(Some(one % other)),
            Self::Compare(how) => Quick { kind: 2, value: i64::from(how.matches(one.cmp(&other))) },
            _ => Quick::UNKNOWN,
        }
    }
}

enum Node {
    It,
    Constant(Py<PyAny>),
    Int(i64),
    Float(f64),
    Attribute(Box<Node>, Py<PyString>),
    Item(Box<Node>, Py<PyAny>),
    Method(Box<Node>, Py<PyString>, Py<PyTuple>),
    In(Box<Node>, Py<PyAny>),
    Call(Box<Node>, Py<PyAny>),
    Binary(Operator, Box<Node>, Box<Node>),
    Unary(char, Box<Node>),
}

/// What is done to an item, recorded.
#[pyclass(frozen, immutable_type, module = "ferrule._core")]
pub struct Program {
    node: Node,
    /// One operation on the item and a number, or (`None`) on the item and itself: most programs are no more, and this one
    /// is done where it is asked for.
    flat: Option<(Operator, Option<i64>)>,
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        "+" => Operator::Add,
        "-" => Operator::Sub,
        "*" => Operator::Mul,
        "/" => Operator::Div,
        "//" => Operator::FloorDiv,
        "%" => Operator::Mod,
        "**" => Operator::Pow,
        "&" => Operator::And,
        "|" => Operator::Or,
        "^" => Operator::Xor,
        "<<" => Operator::Left,
        ">>" => Operator::Right,
        "<" => Operator::Compare(CompareOp::Lt),
        "<=" => Operator::Compare(CompareOp::Le),
        "==" => Operator::Compare(CompareOp::Eq),
        "!=" => Operator::Compare(CompareOp::Ne),
        ">" => Operator::Compare(CompareOp::Gt),
        ">=" => Operator::Compare(CompareOp::Ge),
        _ => return None,
    })
}

/// What comes of a number, in two registers: values of other sizes, handed on through memory, cost more than what is done
/// to them.
#[derive(Clone, Copy)]
pub struct Quick {
    kind: u64,
    /// The number; of a truth value 0 or 1.
    pub value: i64,
}

impl Quick {
    const UNKNOWN: Self = Self { kind: 0, value: 0 };

    fn int(value: Option<i64>) -> Self {
        value.map_or(Self::UNKNOWN, |value| Self { kind: 1, value })
    }

    /// Whether it could be told at all.
    #[inline]
    #[must_use]
    pub fn is_known(self) -> bool {
        self.kind != 0
    }

    /// Whether it is an `int`.
    #[inline]
    #[must_use]
    pub fn is_int(self) -> bool {
        self.kind == 1
    }
}

impl Node {
    /// What comes of an `int`, if that takes nothing but numbers that fit.
    fn quick(&self, item: i64) -> Quick {
        match self {
            Self::It => Quick::int(Some(item)),
            Self::Int(value) => Quick::int(Some(*value)),
            Self::Binary(operator, one, other) => {
                let one = match &**one {
                    Self::It => Quick::int(Some(item)),
                    one => one.quick(item),
                };
                let other = match &**other {
                    Self::It => Quick::int(Some(item)),
                    Self::Int(value) => Quick::int(Some(*value)),
                    other => other.quick(item),
                };
                if !one.is_int() || !other.is_int() {
                    return Quick::UNKNOWN;
                }
                operator.quick(one.value, other.value)
            }
            _ => Quick::UNKNOWN,
        }
    }

    /// Reads a tree of tuples: the name of an operation, and what it is done to.
    fn read(tree: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let py = tree.py();
        let name: String = tree.get_item(0)?.extract()?;
        let side = |index: usize| -> PyResult<Box<Self>> {
            Ok(Box::new(Self::read(&tree.get_item(index)?.cast_into::<PyTuple>()?)?))
        };
        Ok(match name.as_str() {
            "it" => Self::It,
            "constant" => {
                let value = tree.get_item(1)?;
                match Value::Object(value).number() {
                    Value::Int(value) => Self::Int(value),
                    Value::Float(value) => Self::Float(value),
                    other => Self::Constant(other.object(py)?.unbind()),
                }
            }
            "attribute" => Self::Attribute(side(1)?, tree.get_item(2)?.cast_into::<PyString>()?.unbind()),
            "item" => Self::Item(side(1)?, tree.get_item(2)?.unbind()),
            "method" => Self::Method(
                side(1)?,
                tree.get_item(2)?.cast_into::<PyString>()?.unbind(),
                tree.get_item(3)?.cast_into::<PyTuple>()?.unbind(),
            ),
            "in" => Self::In(side(1)?, tree.get_item(2)?.unbind()),
            "call" => Self::Call(side(1)?, tree.get_item(2)?.unbind()),
            "neg" => Self::Unary('-', side(1)?),
            "pos" => Self::Unary('+', side(1)?),
            "not" => Self::Unary('~', side(1)?),
            "abs" => Self::Unary('a', side(1)?),
            other => match operator(other) {
                Some(operator) => Self::Binary(operator, side(1)?, side(2)?),
                None => return Err(PyValueError::new_err(format!("there is no operation {other:?}"))),
            },
        })
    }

    fn evaluate<'py>(&self, py: Python<'py>, item: &Value<'py>) -> PyResult<Value<'py>> {
        Ok(match self {
            Self::It => item.clone(),
            Self::Int(value) => Value::Int(*value),
            Self::Float(value) => Value::Float(*value),
            Self::Constant(value) => Value::Object(value.bind(py).clone()),
            Self::Attribute(of, name) => Value::Object(of.evaluate(py, item)?.object(py)?.getattr(name.bind(py))?),
            Self::Item(of, key) => Value::Object(of.evaluate(py, item)?.object(py)?.get_item(key.bind(py))?),
            Self::Method(of, name, arguments) => {
                let of = of.evaluate(py, item)?.object(py)?;
                Value::Object(of.call_method1(name.bind(py), arguments.bind(py))?)
            }
            Self::In(of, container) => {
                let of = of.evaluate(py, item)?.object(py)?;
                Value::Bool(container.bind(py).contains(of)?)
            }
            Self::Call(of, function) => {
                let of = of.evaluate(py, item)?.object(py)?;
                Value::Object(call_one(function.bind(py), &of)?)
            }
            Self::Unary(sign, of) => unary(py, *sign, of.evaluate(py, item)?)?,
            Self::Binary(operator, one, other) => {
                let one = one.evaluate(py, item)?;
                if let Some(truth) = truth_of(&one) {
                    match operator {
                        Operator::And if !truth => return Ok(Value::Bool(false)),
                        Operator::Or if truth => return Ok(Value::Bool(true)),
                        Operator::And | Operator::Or => return other.evaluate(py, item),
                        _ => {}
                    }
                }
                binary(py, *operator, one, other.evaluate(py, item)?)?
            }
        })
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::It | Self::Int(_) | Self::Float(_) => Ok(()),
            Self::Constant(value) => visit.call(value),
            Self::Attribute(of, _) | Self::Unary(_, of) => of.traverse(visit),
            Self::Item(of, object) | Self::In(of, object) | Self::Call(of, object) => {
                visit.call(object)?;
                of.traverse(visit)
            }
            Self::Method(of, _, arguments) => {
                visit.call(arguments)?;
                of.traverse(visit)
            }
            Self::Binary(_, one, other) => {
                one.traverse(visit)?;
                other.traverse(visit)
            }
        }
    }
}

/// `True` and `False`, and nothing else.
fn truth_of(value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Object(object) => object.cast_exact::<PyBool>().ok().map(PyBoolMethods::is_true),
        Value::Int(_) | Value::Float(_) => None,
    }
}

fn unary<'py>(py: Python<'py>, sign: char, value: Value<'py>) -> PyResult<Value<'py>> {
    if sign == '~'
        && let Some(truth) = truth_of(&value)
    {
        return Ok(Value::Bool(!truth));
    }
    match (sign, value.number()) {
        ('-', Value::Int(number)) if number != i64::MIN => Ok(Value::Int(-number)),
        ('-', Value::Float(number)) => Ok(Value::Float(-number)),
        ('-', value) => value.object(py)?.neg().map(Value::Object),
        ('+', value) => value.object(py)?.pos().map(Value::Object),
        ('a', value) => value.object(py)?.abs().map(Value::Object),
        (_, value) => value.object(py)?.bitnot().map(Value::Object),
    }
}

/// One operation, on numbers where they are plain and the result is, and otherwise as Python does it.
#[inline]
pub fn binary<'py>(py: Python<'py>, operator: Operator, one: Value<'py>, other: Value<'py>) -> PyResult<Value<'py>> {
    let (one, other) = (one.number(), other.number());
    match (&one, &other) {
        (Value::Int(one), Value::Int(other)) => {
            let made = match operator {
                Operator::Add => one.checked_add(*other),
                Operator::Sub => one.checked_sub(*other),
                Operator::Mul => one.checked_mul(*other),
                Operator::And => Some(one & other),
                Operator::Or => Some(one | other),
                Operator::Xor => Some(one ^ other),
                // Python rounds down; these are the same where nothing is negative.
                Operator::FloorDiv if *one >= 0 && *other > 0 => Some(one / other),
                Operator::Mod if *one >= 0 && *other > 0 => Some(one % other),
                Operator::Compare(how) => return Ok(Value::Bool(how.matches(one.cmp(other)))),
                _ => None,
            };
            if let Some(made) = made {
                return Ok(Value::Int(made));
            }
        }
        (Value::Float(one), Value::Float(other)) => {
            let made = match operator {
                Operator::Add => Some(one + other),
                Operator::Sub => Some(one - other),
                Operator::Mul => Some(one * other),
                Operator::Div if *other != 0.0 => Some(one / other),
                Operator::Compare(how) => {
                    let order = one.partial_cmp(other);
                    let holds = order.map_or(matches!(how, CompareOp::Ne), |order| how.matches(order));
                    return Ok(Value::Bool(holds));
                }
                _ => None,
            };
            if let Some(made) = made {
                return Ok(Value::Float(made));
            }
        }
        _ => {}
    }
    let (one, other) = (one.object(py)?, other.object(py)?);
    let made = match operator {
        Operator::Add => one.add(other),
        Operator::Sub => one.sub(other),
        Operator::Mul => one.mul(other),
        Operator::Div => one.div(other),
        Operator::FloorDiv => one.floor_div(other),
        Operator::Mod => one.rem(other),
        Operator::Pow => one.pow(other, py.None()),
        Operator::And => one.bitand(other),
        Operator::Or => one.bitor(other),
        Operator::Xor => one.bitxor(other),
        Operator::Left => one.lshift(other),
        Operator::Right => one.rshift(other),
        Operator::Compare(how) => one.rich_compare(other, how),
    };
    made.map(Value::Object)
}

impl Program {
    /// What comes of an `int`, if that takes nothing but numbers that fit.
    #[inline]
    #[must_use]
    pub fn quick(&self, item: i64) -> Quick {
        match self.flat {
            Some((operator, other)) => operator.quick(item, other.unwrap_or(item)),
            None => self.node.quick(item),
        }
    }

    /// The one operation that it is, if it is no more: on the item and a number, or (`None`) the item and itself.
    #[must_use]
    pub fn flat(&self) -> Option<(Operator, Option<i64>)> {
        self.flat
    }

    /// What comes of an item.
    #[inline]
    pub fn evaluate<'py>(&self, py: Python<'py>, item: &Value<'py>) -> PyResult<Value<'py>> {
        self.node.evaluate(py, item)
    }
}

#[pymethods]
impl Program {
    #[new]
    #[pyo3(signature = (tree, /))]
    fn new(tree: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let node = Node::read(tree)?;
        let flat = match &node {
            Node::Binary(operator, one, other) => match (&**one, &**other) {
                (Node::It, Node::It) => Some((*operator, None)),
                (Node::It, Node::Int(other)) => Some((*operator, Some(*other))),
                _ => None,
            },
            _ => None,
        };
        Ok(Self { node, flat })
    }

    /// What comes of `item`.
    #[pyo3(signature = (item, /))]
    fn __call__<'py>(&self, item: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = item.py();
        self.evaluate(py, &Value::Object(item))?.object(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.node.traverse(&visit)
    }
}

/// What a stage asks: an expression, or anything that can be called.
pub enum Function {
    /// Evaluated here.
    Native(Py<Program>),
    /// Called.
    Opaque(Py<PyAny>),
}

impl Function {
    /// An expression of the face carries its program as `_program`.
    pub fn new(function: &Bound<'_, PyAny>) -> Self {
        let program = interned!(function.py(), "_ferrule_program");
        // Looked up on the class, for an expression's attributes are expressions.
        let carried = function.get_type().getattr(program).and_then(|read| call_one(&read, function));
        match carried.ok().and_then(|program| program.cast_into::<Program>().ok()) {
            Some(program) => Self::Native(program.unbind()),
            None => Self::Opaque(function.clone().unbind()),
        }
    }

    /// What comes of an item.
    #[inline]
    pub fn apply<'py>(&self, py: Python<'py>, item: &mut Value<'py>) -> PyResult<Value<'py>> {
        match self {
            Self::Native(program) => program.get().evaluate(py, item),
            Self::Opaque(function) => {
                // An error wants to show the item, and so it stays an object from here on.
                let object = std::mem::replace(item, Value::Bool(false)).object(py)?;
                let made = call_one(function.bind(py), &object);
                *item = Value::Object(object);
                made.map(Value::Object)
            }
        }
    }

    /// What comes of an item that is an object and stays one.
    #[inline]
    pub fn call<'py>(&self, py: Python<'py>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Native(program) => program.get().evaluate(py, &Value::Object(item.clone()))?.object(py),
            Self::Opaque(function) => call_one(function.bind(py), item),
        }
    }

    /// The same once more.
    #[must_use]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Native(program) => Self::Native(program.clone_ref(py)),
            Self::Opaque(function) => Self::Opaque(function.clone_ref(py)),
        }
    }

    /// Shows what is held to the garbage collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Native(program) => visit.call(program),
            Self::Opaque(function) => visit.call(function),
        }
    }
}
