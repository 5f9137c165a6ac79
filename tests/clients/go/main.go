// The SDK `openai-go`: chat, streams, tools, embeddings, errors.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"maps"
	"math"
	"os"
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"
)

var (
	background = context.Background()
	// Two texts of llama.cpp are the same when neither uses what is left of the other.
	same = option.WithJSONSet("cache_prompt", false)
	ask  = []openai.ChatCompletionMessageParamUnion{
		openai.UserMessage("Tell a story about a dog."),
	}
	tool = openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
		Name: "count_legs",
		Parameters: openai.FunctionParameters{
			"type": "object",
			"properties": map[string]any{
				"animal": map[string]any{"type": "string", "maxLength": 8},
			},
			"required": []string{"animal"},
		},
	})
)

func check(holds bool, about ...any) {
	if !holds {
		log.Panicln(about...)
	}
}

func must[T any](value T, err error) T {
	check(err == nil, err)
	return value
}

func at(url string) openai.Client {
	base := option.WithBaseURL(url + "/v1")
	return openai.NewClient(base, option.WithAPIKey("sk-any"), option.WithMaxRetries(0))
}

func asked(model string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:       model,
		Messages:    ask,
		MaxTokens:   openai.Int(16),
		Temperature: openai.Float(0),
	}
}

type chunks = ssestream.Stream[openai.ChatCompletionChunk]

func text(stream *chunks) (all openai.ChatCompletionAccumulator, whole string) {
	var parts strings.Builder
	for stream.Next() {
		chunk := stream.Current()
		check(all.AddChunk(chunk), "a chunk of another completion")
		for _, choice := range chunk.Choices {
			parts.WriteString(choice.Delta.Content)
		}
	}
	check(stream.Err() == nil, stream.Err())
	return all, parts.String()
}

func models(client openai.Client, model string) {
	found := false
	for _, each := range must(client.Models.List(background)).Data {
		found = found || each.ID == model
	}
	check(found, "no model", model)
}

func chat(client, cold openai.Client, model string) {
	params := asked(model)
	answer := must(client.Chat.Completions.New(background, params, same))
	whole := answer.Choices[0].Message.Content
	check(whole != "" && answer.Usage.CompletionTokens > 0, answer)

	params.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)}
	for _, each := range []openai.Client{client, cold} {
		all, got := text(each.Chat.Completions.NewStreaming(background, params, same))
		check(got == whole, got, whole)
		check(all.Usage.CompletionTokens > 0, all.Usage)
	}
}

func tools(client openai.Client, model string) {
	params := asked(model)
	params.MaxTokens = openai.Int(200)
	params.Tools = []openai.ChatCompletionToolUnionParam{tool}
	params.ToolChoice = openai.ChatCompletionToolChoiceOptionUnionParam{
		OfAuto: openai.String("required"),
	}
	whole := must(client.Chat.Completions.New(background, params, same)).Choices[0]
	check(whole.FinishReason == "tool_calls", whole.FinishReason)
	check(len(whole.Message.ToolCalls) == 1, whole.Message)
	call := whole.Message.ToolCalls[0].Function
	check(call.Name == "count_legs", call)
	var arguments map[string]string
	check(json.Unmarshal([]byte(call.Arguments), &arguments) == nil, call.Arguments)
	_, there := arguments["animal"]
	check(there && len(arguments) == 1, arguments)

	all, _ := text(client.Chat.Completions.NewStreaming(background, params, same))
	streamed := all.Choices[0].Message.ToolCalls[0].Function
	var again map[string]string
	check(json.Unmarshal([]byte(streamed.Arguments), &again) == nil, streamed.Arguments)
	check(streamed.Name == call.Name && maps.Equal(again, arguments), streamed, call)
}

func embeddings(client openai.Client, model string) {
	answer := must(client.Embeddings.New(background, openai.EmbeddingNewParams{
		Model: model,
		Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a dog", "a cat"}},
	}))
	check(len(answer.Data) == 2, answer)
	check(len(answer.Data[0].Embedding) > 8, answer.Data[0])
	sum := 0.0
	for _, value := range answer.Data[0].Embedding {
		sum += value * value
	}
	check(math.Abs(sum-1) < 1e-3, "the length of a vector is", sum)
}

func failures(client, cold openai.Client) {
	_, err := client.Chat.Completions.New(background, asked("nobody"))
	var failure *openai.Error
	check(errors.As(err, &failure), err)
	check(failure.StatusCode == 404 && failure.Code == "model_not_found", failure)
	check(strings.Contains(failure.Message, "no model 'nobody'"), failure.Message)

	stream := cold.Chat.Completions.NewStreaming(background, asked("broken"))
	check(!stream.Next(), "a chunk of a model that cannot start")
	check(strings.Contains(stream.Err().Error(), "the weights are damaged"), stream.Err())
}

func main() {
	url, model, embedder, coldURL := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	client, cold := at(url), at(coldURL)
	models(client, model)
	chat(client, cold, model)
	tools(client, model)
	embeddings(client, embedder)
	failures(client, cold)
}
