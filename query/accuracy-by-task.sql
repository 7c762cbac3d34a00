-- How often each model, task and mode got the given label, counting each example once.
-- param label text = correct: the label that counts as right
SELECT model, task, mode, variant,
       count(*) AS examples,
       count(*) FILTER (hit) AS hits,
       round(hits / examples, 4) AS accuracy
FROM (
    SELECT model, task, mode, variant, bool_or(label = $label::VARCHAR) AS hit
    FROM activations
    WHERE label IS NOT NULL
    GROUP BY model, dataset, split, example_id, example_index, task, mode, variant
)
GROUP BY model, task, mode, variant
ORDER BY model, task, mode, variant
