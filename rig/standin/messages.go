package standin

import (
	"fmt"
	"reflect"

	"go.fd.io/govpp/api"
)

// The binary API fixes the number of the first message of a client.
const sockclntCreateID = 15

// firstID is the number of the first message that has no fixed one.
const firstID = 100

// handler acts on a request and returns what is answered.
type handler func(c *client, request api.Message) []api.Message

// entry is a message of the table.
type entry struct {
	id        uint16
	name      string
	crc       string
	prototype reflect.Type
	handle    handler // nil for answers and events
	answer    reflect.Type
}

// table is every message there is.
type table struct {
	byID   map[uint16]*entry
	byName map[string]*entry
	order  []*entry
}

func newTable() *table {
	return &table{byID: map[uint16]*entry{}, byName: map[string]*entry{}}
}

// add puts a message into the table, once.
func (t *table) add(m api.Message) *entry {
	if e := t.byName[m.GetMessageName()]; e != nil {
		return e
	}
	e := &entry{
		id: firstID + uint16(len(t.order)), name: m.GetMessageName(), crc: m.GetCrcString(),
		prototype: reflect.TypeOf(m).Elem(),
	}
	if e.name == "sockclnt_create" {
		e.id = sockclntCreateID
	}
	t.byID[e.id], t.byName[e.name] = e, e
	t.order = append(t.order, e)
	return e
}

// on makes the table handle requests of type Q, whose answers or details are of
// the type of answer.
func on[Q any, P interface {
	*Q
	api.Message
}](t *table, answer api.Message, f func(c *client, m P) []api.Message) {
	e := t.add(P(new(Q)))
	e.answer = reflect.TypeOf(answer).Elem()
	e.handle = func(c *client, m api.Message) []api.Message { return f(c, m.(P)) }
	t.add(answer)
}

// one makes the table handle requests with exactly one answer.
func one[Q any, P interface {
	*Q
	api.Message
}, A api.Message](t *table, f func(m P) A) {
	var none A
	answer := reflect.New(reflect.TypeOf(none).Elem()).Interface().(api.Message)
	on(t, answer, func(_ *client, m P) []api.Message { return []api.Message{f(m)} })
}

// dump makes the table handle requests with any number of answers.
func dump[Q any, P interface {
	*Q
	api.Message
}, A api.Message](t *table, f func(m P) []A) {
	var none A
	answer := reflect.New(reflect.TypeOf(none).Elem()).Interface().(api.Message)
	on(t, answer, func(_ *client, m P) []api.Message {
		var all []api.Message
		for _, d := range f(m) {
			all = append(all, d)
		}
		return all
	})
}

// message makes an empty message of the entry.
func (e *entry) message() api.Message {
	return reflect.New(e.prototype).Interface().(api.Message)
}

// refusal is the answer of a request with a return code and nothing else.
func (e *entry) refusal(code int32) (api.Message, error) {
	if e.answer == nil {
		return nil, fmt.Errorf("refuse message %s: it has no answer", e.name)
	}
	m := reflect.New(e.answer)
	field := m.Elem().FieldByName("Retval")
	if !field.IsValid() {
		return nil, fmt.Errorf("refuse message %s: its answer %s has no return code", e.name, e.answer.Name())
	}
	field.SetInt(int64(code))
	return m.Interface().(api.Message), nil
}
