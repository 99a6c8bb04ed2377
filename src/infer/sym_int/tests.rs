use super::*;

fn s() -> SymInt {
    SymInt::symbol("s")
}

fn t() -> SymInt {
    SymInt::symbol("t")
}

fn n(n: i64) -> SymInt {
    SymInt::from(n)
}

#[test]
fn equal_polynomials_are_equal() {
    let square = s().add(&n(1)).unwrap();
    let square = square.mul(&square).unwrap();
    let two_s = s().mul(&n(2)).unwrap();
    let sum = s().mul(&s()).unwrap().add(&two_s).unwrap();
    assert_eq!(square, sum.add(&n(1)).unwrap());
    assert_eq!(square.to_string(), "2*s + s*s + 1");
    assert_eq!(s().add(&t()), t().add(&s()));
    assert!(s().sub(&s()).unwrap().is(0));
    assert_eq!(s().mul(&n(0)), Some(n(0)));
    assert_eq!(n(i64::MAX).add(&n(1)), None);
    assert_eq!(
        n(i64::MIN).sub(&n(i64::MIN)),
        None,
        "its negation overflows"
    );
}

#[test]
fn quotients() {
    let div = |a: &SymInt, b: &SymInt| a.floor_div(b).map(|q| q.to_string());
    let text = |t: &str| Some(t.to_owned());
    let four_s = s().mul(&n(4)).unwrap();
    assert_eq!(div(&four_s, &n(4)), text("s"));
    assert_eq!(div(&four_s.add(&n(6)).unwrap(), &n(4)), text("s + 1"));
    assert_eq!(div(&s().mul(&t()).unwrap(), &t()), text("s"));
    assert_eq!(
        div(&s().add(&n(5)).unwrap(), &n(2)),
        text("floor((s + 1)/(2)) + 2")
    );
    assert_eq!(div(&n(-7), &n(2)), text("-4"));
    assert_eq!(div(&s(), &n(0)), None);
    assert_eq!(div(&s(), &t()), None, "t may be 0");
    assert_eq!(s().add(&n(3)).unwrap().rem(&n(1)), Some(n(0)));
    assert_eq!(four_s.add(&n(7)).unwrap().rem(&n(4)), Some(n(3)));
}

#[test]
fn order_of_extents() {
    assert_eq!(s().equals(&n(-1)), Some(false));
    assert_eq!(s().equals(&n(0)), None);
    assert_eq!(s().equals(&s()), Some(true));
    assert_eq!(s().less(&s().add(&n(1)).unwrap()), Some(true));
    assert_eq!(s().add(&t()).unwrap().less(&t()), Some(false));
    assert_eq!(s().less(&t()), None);
    assert_eq!(s().maximum(&n(-3)), Some(s()));
    assert_eq!(s().minimum(&n(0)), Some(n(0)));
    assert_eq!(s().maximum(&t()), t().maximum(&s()));
    let negative = s().mul(&n(-1)).unwrap();
    assert_eq!((negative.lower(), negative.upper()), (None, Some(0)));
}

#[test]
fn broadcasting() {
    assert_eq!(s().broadcast(&n(1)), Some(s()));
    assert_eq!(s().broadcast(&n(3)), Some(n(3)));
    assert_eq!(n(2).broadcast(&n(3)), None);
    assert_eq!(s().broadcast(&t()), t().broadcast(&s()));
}

#[test]
fn expressions_stay_small() {
    let mut x = s();
    for i in 2..200 {
        match x.floor_div(&n(i)) {
            Some(q) => x = q,
            None => return,
        }
    }
    panic!("quotients of quotients without end: {x}");
}
