-- Questions that several examples ask, in whatever split or data set: keep them on one side of a train/test split.
-- param k int = 100: how many questions
SELECT question, count(DISTINCT (dataset, split, example_id)) AS examples,
       list(DISTINCT dataset ORDER BY dataset) FILTER (WHERE dataset IS NOT NULL) AS datasets,
       list(DISTINCT split ORDER BY split) FILTER (WHERE split IS NOT NULL) AS splits,
       list(DISTINCT concat_ws('/', dataset, split, example_id)
            ORDER BY concat_ws('/', dataset, split, example_id))[1:10] AS first_examples
FROM activations
WHERE trim(question, e' \t\n\r\f\v') <> ''
GROUP BY question
HAVING examples > 1
ORDER BY examples DESC, question
LIMIT $k::INTEGER
