package tasks

import (
	"context"
	"encoding/json"
	"fmt"
)

// Three calls are all that most programs need.

// EnqueueTask stores a job and returns its id. Arguments travel as JSON: one as it is, as a Kind's handler takes it; several as an array,
// which Job.Args reads; none as no payload. Options may be among them.
func (c *Client) EnqueueTask(ctx context.Context, name string, args ...any) (id string, err error) {
	var options []Option
	var values []any
	for _, arg := range args {
		if option, ok := arg.(Option); ok {
			options = append(options, option)
		} else {
			values = append(values, arg)
		}
	}
	var payload []byte
	switch len(values) {
	case 0:
	case 1:
		payload, err = json.Marshal(values[0])
	default:
		payload, err = json.Marshal(values)
	}
	if err != nil {
		return "", fmt.Errorf("arguments of %s: %w: %w", name, ErrInvalid, err)
	}
	return c.Enqueue(ctx, name, payload, options...)
}

// GetTaskStatus tells where a job is: Status.
func (c *Client) GetTaskStatus(ctx context.Context, id string) (Status, error) {
	return c.Status(ctx, id)
}

// CancelTask reports whether there was something to cancel: the job does not begin, or its runner was told to end it.
func (c *Client) CancelTask(ctx context.Context, id string) (bool, error) {
	state, err := c.Cancel(ctx, id)
	return state != "", err
}

// Args reads the arguments of EnqueueTask in their order. What cannot be read makes the job dead at once.
func (j *Job) Args(into ...any) error {
	var err error
	if len(into) == 1 {
		err = json.Unmarshal(j.Payload, into[0])
	} else {
		values := []json.RawMessage{}
		if len(j.Payload) > 0 {
			err = json.Unmarshal(j.Payload, &values)
		}
		if err == nil && len(values) != len(into) {
			err = fmt.Errorf("%d, want %d", len(values), len(into))
		}
		for i := range values {
			if err == nil {
				err = json.Unmarshal(values[i], into[i])
			}
		}
	}
	if err != nil {
		return fmt.Errorf("arguments of %s: %w: %w", j.Name, ErrSkipRetry, err)
	}
	return nil
}
