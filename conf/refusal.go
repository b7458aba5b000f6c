package conf

// Refusal is a configuration that cannot be accepted as it is written: the caller
// has to change it. Its CNI code is 7 (CNI specification 1.1.0, section "Error").
type Refusal struct{ Err error }

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap gives the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// Refuse makes an error a Refusal; nil stays nil.
func Refuse(err error) error {
	if err == nil {
		return nil
	}
	return &Refusal{err}
}
