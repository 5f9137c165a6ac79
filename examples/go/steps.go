package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/health" // Trap: without this import a healthCheckConfig does nothing.
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "example/inference_service/v1"
)

// stop stops the model; one that does not run is stopped.
func (e *example) stop(ctx context.Context) error {
	_, err := e.client.StopModel(ctx, &pb.StopModelRequest{ModelId: model})
	if reason, _ := details(err); reason == "CONTAINER_NOT_RUNNING" {
		return nil
	}
	return err
}

// streamed reads a whole stream: statuses while the model starts, chunks, one summary.
func (e *example) streamed(ctx context.Context) (seen, error) {
	began := time.Now()
	stream, err := e.client.GenerateStream(ctx, &pb.GenerateStreamRequest{
		ModelId:      model,
		Prompt:       prompt,
		MaxNewTokens: proto.Int32(60),
		StatusEvents: true,
	})
	if err != nil {
		return nil, err
	}
	var statuses []string
	var text strings.Builder
	var first time.Duration
	var summary *pb.GenerateSummary
	chunks := 0
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		switch event := response.Event.(type) {
		case *pb.GenerateStreamResponse_Status:
			state := event.Status.ModelState.String()
			if len(statuses) == 0 || statuses[len(statuses)-1] != state {
				statuses = append(statuses, state)
			}
		case *pb.GenerateStreamResponse_Chunk:
			if chunks == 0 {
				first = time.Since(began)
			}
			chunks++
			text.WriteString(event.Chunk.Text)
		case *pb.GenerateStreamResponse_Summary:
			summary = event.Summary
		default: // an event of a later version: nil here, to be skipped
		}
	}
	if summary == nil {
		return nil, errors.New("a stream without a summary has failed")
	}
	return seen{
		"statuses":            statuses,
		"chunks":              chunks,
		"text":                text.String(),
		"finish_reason":       summary.FinishReason.String(),
		"first_chunk_seconds": first.Seconds(),
	}, nil
}

func (e *example) coldStart(ctx context.Context) (seen, error) {
	if err := e.stop(ctx); err != nil {
		return nil, err
	}
	all, err := e.streamed(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(all["statuses"].([]string), pb.ModelState_MODEL_STATE_STARTING.String()) {
		return nil, fmt.Errorf("no status was STARTING: %v", all)
	}
	delete(all, "first_chunk_seconds")
	return all, nil
}

func (e *example) stream(ctx context.Context) (seen, error) {
	all, err := e.streamed(ctx)
	if err != nil {
		return nil, err
	}
	return seen{"chunks": all["chunks"], "first_chunk_seconds": all["first_chunk_seconds"]}, nil
}

func (e *example) cancel(ctx context.Context) (seen, error) {
	// Trap: a stream that is neither read to its end nor cancelled runs on, and its goroutine stays.
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := e.client.GenerateStream(streaming, &pb.GenerateStreamRequest{
		ModelId:           model,
		Prompt:            prompt,
		MaxNewTokens:      proto.Int32(500),
		Temperature:       proto.Float64(0),   // with the next line it repeats itself, and so it
		RepetitionPenalty: proto.Float64(0.1), // ends at no earlier token
	})
	if err != nil {
		return nil, err
	}
	if _, err = stream.Recv(); err != nil { // the first chunk
		return nil, err
	}
	cancel()
	began := time.Now()
	for err == nil { // what has come already may be read before the status
		_, err = stream.Recv()
	}
	// Trap: a cancelled call has this status; it is not errors.Is(err, context.Canceled).
	if status.Code(err) != codes.Canceled {
		return nil, fmt.Errorf("cancelled, and then: %w", err)
	}
	for time.Since(began) < 2*time.Second {
		found, err := e.client.GetModel(ctx, &pb.GetModelRequest{ModelId: model})
		if err != nil {
			return nil, err
		}
		if found.Model.ActiveRequestCount == 0 {
			free := time.Since(began).Seconds()
			return seen{"code": codes.Canceled.String(), "free_after_seconds": free}, nil
		}
	}
	return nil, errors.New("the request runs on")
}

func (e *example) deadline(ctx context.Context) (seen, error) {
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := e.client.Generate(short, &pb.GenerateRequest{
		ModelId:           model,
		Prompt:            prompt,
		MaxNewTokens:      proto.Int32(500),
		Temperature:       proto.Float64(0),
		RepetitionPenalty: proto.Float64(0.1),
	})
	if err == nil {
		return nil, errors.New("the text came before the deadline")
	}
	// DEADLINE_PASSED of the service comes first, or else the library's own, without details.
	reason, _ := details(err)
	return seen{"code": status.Code(err).String(), "reason": reason}, nil
}

func (e *example) violations(ctx context.Context) (seen, error) {
	_, err := e.client.Generate(ctx, &pb.GenerateRequest{
		ModelId:     model,
		Prompt:      prompt,
		Temperature: proto.Float64(9),
		TopP:        proto.Float64(7),
	})
	if err == nil {
		return nil, errors.New("the service took the parameters")
	}
	reason, fields := details(err)
	return seen{"code": status.Code(err).String(), "reason": reason, "fields": fields}, nil
}

func (e *example) quietWatch(ctx context.Context) (seen, error) {
	if _, err := e.client.StartModel(ctx, &pb.StartModelRequest{ModelId: model}); err != nil {
		return nil, err
	}
	// Trap: an interval of less than 10 s counts as 10 s.
	connection, err := connect(e.target, grpc.WithKeepaliveParams(keepalive.ClientParameters{
		Time: e.ping, Timeout: 20 * time.Second, PermitWithoutStream: true,
	}))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	// A watch has no end, so it has no deadline.
	watching, cancel := context.WithCancel(context.Background())
	defer cancel()
	request := &pb.WatchModelsRequest{ModelId: model}
	watch, err := pb.NewModelServiceClient(connection).WatchModels(watching, request)
	if err != nil {
		return nil, err
	}
	if err := until(watch, func(change *pb.WatchModelsResponse) bool {
		return change.GetSnapshotDone() != nil
	}); err != nil {
		return nil, err
	}
	time.Sleep(e.quiet)
	late, done := context.WithTimeout(context.Background(), patience)
	defer done()
	if err := e.stop(late); err != nil {
		return nil, err
	}
	if err := until(watch, func(change *pb.WatchModelsResponse) bool {
		return change.GetModel().GetState() == pb.ModelState_MODEL_STATE_STOPPED
	}); err != nil {
		return nil, fmt.Errorf("the watch has ended: %w", err)
	}
	return seen{"alive": true}, nil
}

// until reads a watch until the wanted change; it skips others, and events of a later version.
func until(
	watch grpc.ServerStreamingClient[pb.WatchModelsResponse],
	wanted func(*pb.WatchModelsResponse) bool,
) error {
	for {
		if change, err := watch.Recv(); err != nil {
			return err
		} else if wanted(change) {
			return nil
		}
	}
}

func (e *example) many(ctx context.Context) (seen, error) {
	// Without retries, which would hide most refusals: the calls would take turns.
	connection, err := connect(e.target, grpc.WithDisableRetry())
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	client := pb.NewModelServiceClient(connection)
	request := &pb.GenerateRequest{ModelId: model, Prompt: prompt, MaxNewTokens: proto.Int32(1)}
	failures := make([]error, e.calls)
	var calls sync.WaitGroup
	for number := range e.calls {
		calls.Go(func() { _, failures[number] = client.Generate(ctx, request) })
	}
	calls.Wait()

	ok, untyped, refused := 0, 0, map[string]int{}
	for _, err := range failures {
		reason, _ := details(err)
		switch {
		case err == nil:
			ok++
		case reason == "":
			untyped++
		default:
			refused[reason]++
		}
	}
	if untyped > 0 {
		return nil, fmt.Errorf("%d calls failed without a reason", untyped)
	}
	return seen{"ok": ok, "refused": refused, "untyped": untyped}, nil
}

// health calls a model that is stopped, on a channel that asks for the health of the model first.
func (e *example) health(ctx context.Context) (seen, error) {
	if err := e.stop(ctx); err != nil {
		return nil, err
	}
	var config map[string]any
	if err := json.Unmarshal([]byte(serviceConfig), &config); err != nil {
		return nil, err
	}
	config["healthCheckConfig"] = map[string]any{"serviceName": model}
	// Trap: pick_first, the default, does not look at the health.
	config["loadBalancingConfig"] = []any{map[string]any{"round_robin": map[string]any{}}}
	checked, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	connection, err := connect(e.target, grpc.WithDefaultServiceConfig(string(checked)))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	answer, err := pb.NewModelServiceClient(connection).Generate(ctx, &pb.GenerateRequest{
		ModelId: model, Prompt: prompt, MaxNewTokens: proto.Int32(8),
	})
	if err != nil {
		return nil, err
	}
	return seen{"text": answer.GeneratedText}, nil
}
