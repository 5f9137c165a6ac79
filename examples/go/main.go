// Command example is a client of inference-service with grpc-go.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "example/inference_service/v1" // written by `buf generate`
)

const (
	usage    = "usage: example TARGET [QUIET_SECONDS=600] [CALLS=1200] [PING_SECONDS=10]"
	model    = "story-mini"
	prompt   = "Once upon a time"
	patience = time.Minute // a call that waits for a service and a cold model needs a deadline
)

// Retries, and calls that wait for a service that is not there yet.
//
//go:embed service_config.json
var serviceConfig string

type seen map[string]any

type example struct {
	target string
	client pb.ModelServiceClient
	quiet  time.Duration
	calls  int
	ping   time.Duration
}

// connect does not connect yet: the first call does.
func connect(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
	}, options...)...)
}

// details returns the reason of an error, or "" for one of the library's own, and the wrong fields.
func details(err error) (reason string, fields []string) {
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fields = append(fields, violation.Field)
			}
		}
	}
	return reason, fields
}

func (e *example) run() error {
	for _, step := range []struct {
		name string
		do   func(context.Context) (seen, error)
	}{
		{"cold_start", e.coldStart},
		{"stream", e.stream},
		{"cancel", e.cancel},
		{"deadline", e.deadline},
		{"violations", e.violations},
		{"quiet_watch", e.quietWatch},
		{"many", e.many},
		{"health", e.health},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		began := time.Now()
		what, err := step.do(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		what["step"], what["seconds"] = step.name, time.Since(began).Seconds()
		line, err := json.Marshal(what)
		if err != nil {
			return err
		}
		fmt.Println(string(line))
	}
	return nil
}

func main() {
	if len(os.Args) < 2 || len(os.Args) > 5 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	arguments := append(os.Args[1:], []string{"600", "1200", "10"}[len(os.Args)-2:]...)
	number := func(index int) int {
		value, err := strconv.Atoi(arguments[index])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		return value
	}
	connection, err := connect(arguments[0])
	if err == nil {
		defer connection.Close()
		err = (&example{
			target: arguments[0],
			client: pb.NewModelServiceClient(connection),
			quiet:  time.Duration(number(1)) * time.Second,
			calls:  number(2),
			ping:   time.Duration(number(3)) * time.Second,
		}).run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
